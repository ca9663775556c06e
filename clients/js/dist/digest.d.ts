/**
 * The digest of a set of items: the sum of `SHA-256(JCS([id, item]))` in eight 32-bit lanes (docs/semantics.md L10).
 *
 * SHA-256 is our own and synchronous: `crypto.subtle` is missing on pages over plain http, and its promise costs seven
 * times the hash of one item.
 */
/** The SHA-256 of one item, as eight 32-bit words. */
export type Leaf = Int32Array;
/** Returns integers in hex, each with this number of digits. */
export declare const hex: (words: ArrayLike<number>, digits: number) => string;
/** Returns the SHA-256 of a text in UTF-8 as eight words. */
export declare const sha256: (text: string) => Leaf;
/**
 * Returns the canonical JSON (RFC 8785) of a parsed value.
 *
 * `JSON.stringify` writes numbers and strings as RFC 8785 requires, and the default sort compares UTF-16 units, as the
 * RFC does. The server sends canonical items, so nearly all keys are in order.
 */
export declare const canonical: (value: any) => string;
/** Returns the leaf of one item in a digest. */
export declare const leafOf: (id: string, item: unknown) => Leaf;
/** A digest that is updated as items come and go. */
export declare class Digest {
    private _lanes;
    /** Adds a leaf; `sign` -1 subtracts it. */
    add(leaf: Leaf, sign?: number): void;
    /** The digest as 64 hex digits; zeros for an empty set. */
    get hex(): string;
}
/** Returns the digest of these items as 64 hex digits. */
export declare function digestOf(items: Readonly<Record<string, unknown>>): string;
