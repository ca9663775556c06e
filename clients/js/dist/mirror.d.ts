/**
 * The client's copy of a view. No I/O and no clock: sync objects and live frames go in, changes come out.
 *
 * The copy contains only items that the server sent (docs/semantics.md L11), and its digest verifies it (L10). The twin
 * in Python is `gregor.client.mirror`; `tests/vectors` checks that both are equal.
 */
import type { Item, Rendering } from "./types.js";
/** A frame in JSON (docs/reference/websocket.md). */
export type Frame = Record<string, any>;
/** One change that a frame made. */
export type Change = {
    type: "created";
    id: string;
    item: Item;
    live: boolean;
} | {
    type: "dismissed";
    id: string;
    item: Item;
    reason: string | null;
    rendered?: Rendering;
} | {
    type: "reminded";
    id: string;
    item: Item;
    at: number;
} | {
    type: "external";
    system: string;
    body: unknown;
    device: string | null;
} | {
    type: "gap";
} | {
    type: "flush";
}
/** `proven`: the digest matched, and this sync object did not replace a wrong copy. */
 | {
    type: "synced";
    kind: string;
    proven: boolean;
};
export declare class Mirror {
    /** The position to resume from; null before the first sync. */
    cursor: string | null;
    /** Category prefixes whose items do not count for the badge. */
    uncounted: readonly string[];
    /** Whether the digest did not match. Only a full copy repairs that. */
    needsFull: boolean;
    readonly items: Map<string, Item>;
    readonly rendered: Map<string, Rendering>;
    private _sum;
    get digest(): string;
    /** The number in the cursor; 0 before the first sync. */
    get seq(): number;
    /** Applies one frame and returns the changes, in order. Frames that do not concern the copy change nothing. */
    apply(frame: Frame): Change[];
    private _applySync;
    private _differs;
    private _applyLive;
    /** Replaces the copy. An item with equal content stays: otherwise, handlers would see it leave and return. */
    private _replace;
    private _patch;
    private _drop;
}
/** Returns whether an item with this category counts for the badge. */
export declare const counts: (uncounted: readonly string[], category: string) => boolean;
/** Returns a full sync object that makes an equal copy, for other tabs and for storage. Null before the first sync. */
export declare function copyOf({ cursor, digest, items, rendered, uncounted }: Mirror): Frame | null;
