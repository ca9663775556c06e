/**
 * The digest of a set of items: the sum of `SHA-256(JCS([id, item]))` in eight 32-bit lanes (docs/semantics.md L10).
 *
 * SHA-256 is our own and synchronous: `crypto.subtle` is missing on pages over plain http, and its promise costs seven
 * times the hash of one item.
 */

/** The SHA-256 of one item, as eight 32-bit words. */
export type Leaf = Int32Array;

/** Returns integers in hex, each with this number of digits. */
export const hex = (words: ArrayLike<number>, digits: number): string =>
  Array.from(words, (word) => (word >>> 0).toString(16).padStart(digits, "0")).join("");

const rotate = (word: number, by: number): number => (word >>> by) | (word << (32 - by));

/** Returns the SHA-256 of a text in UTF-8 as eight words. */
export const sha256: (text: string) => Leaf = (() => {
  // In a function: the bundler turns constants of a module into variables, with which a hash takes a fifth longer.
  const k = new Int32Array(64), w = new Int32Array(64), initial = new Int32Array(8), encoder = new TextEncoder();
  // Round constants: the fractional parts of the cube and square roots of the first primes (FIPS 180-4, section 4.2.2).
  next: for (let n = 2, found = 0; found < 64; n++) {
    for (let d = 2; d < n; d++) if (n % d === 0) continue next;
    if (found < 8) initial[found] = (Math.sqrt(n) % 1) * 2 ** 32;
    k[found++] = (Math.cbrt(n) % 1) * 2 ** 32;
  }

  const compress = (hash: Int32Array, block: DataView, at: number): void => {
    let a = hash[0]!, b = hash[1]!, c = hash[2]!, d = hash[3]!, e = hash[4]!, f = hash[5]!, g = hash[6]!, h = hash[7]!;
    for (let i = 0; i < 16; i++) w[i] = block.getInt32(at + i * 4);
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15]!, y = w[i - 2]!;
      w[i] = w[i - 16]! + w[i - 7]! +
        (rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3)) + (rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10));
    }
    for (let i = 0; i < 64; i++) {
      const t1 = (h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + k[i]! + w[i]!) | 0;
      const t2 = ((rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0; d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    hash[0]! += a; hash[1]! += b; hash[2]! += c; hash[3]! += d; hash[4]! += e; hash[5]! += f; hash[6]! += g; hash[7]! += h;
  };

  let view = new DataView(new ArrayBuffer(0));
  return (text) => {
    // The buffer is used again for each item: a new one costs as much as the hash. A UTF-16 unit has at most three bytes.
    const room = text.length * 3 + 72;
    if (view.byteLength < room) view = new DataView(new ArrayBuffer(room));
    const bytes = new Uint8Array(view.buffer), hash = initial.slice();
    const size = encoder.encodeInto(text, bytes).written;
    const end = (size + 72) & -64;
    bytes.fill(0, size, end);
    bytes[size] = 0x80;
    view.setUint32(end - 4, size << 3);
    for (let at = 0; at < end; at += 64) compress(hash, view, at);
    return hash;
  };
})();

/**
 * Returns the canonical JSON (RFC 8785) of a parsed value.
 *
 * `JSON.stringify` writes numbers and strings as RFC 8785 requires, and the default sort compares UTF-16 units, as the
 * RFC does. The server sends canonical items, so nearly all keys are in order.
 */
export const canonical = (value: any): string => (isSorted(value) ? JSON.stringify(value) : sortedJson(value));

/** Returns the canonical JSON of a value that may be unsorted. `isSorted` at each level would take depth × size. */
function sortedJson(value: any): string {
  if (Array.isArray(value)) return `[${value.map(sortedJson).join()}]`;
  if (!value || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${sortedJson(value[key])}`).join()}}`;
}

/** Returns whether all keys in a value are in order. An array of more than ten elements counts as unsorted ("10" < "9"). */
function isSorted(value: any): boolean {
  let before: string;
  if (typeof value === "object") for (const key in value) {
    if (key < before! || !isSorted(value[key])) return false;
    before = key;
  }
  return true;
}

/** Returns the leaf of one item in a digest. */
export const leafOf = (id: string, item: unknown): Leaf => sha256(canonical([id, item]));

/** A digest that is updated as items come and go. */
export class Digest {
  private _lanes = new Uint32Array(8);

  /** Adds a leaf; `sign` -1 subtracts it. */
  add(leaf: Leaf, sign = 1): void {
    for (let i = 0; i < 8; i++) this._lanes[i]! += sign * leaf[i]!;
  }

  /** The digest as 64 hex digits; zeros for an empty set. */
  get hex(): string {
    return hex(this._lanes, 8);
  }
}

/** Returns the digest of these items as 64 hex digits. */
export function digestOf(items: Readonly<Record<string, unknown>>): string {
  const digest = new Digest();
  for (const [id, item] of Object.entries(items)) digest.add(leafOf(id, item));
  return digest.hex;
}
