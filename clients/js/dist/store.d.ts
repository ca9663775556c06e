/** The state that a page shows, computed from the synchronizer. Equal values keep their identity. */
import { type Mirror } from "./mirror.js";
import type { Synchronizer } from "./synchronizer.js";
import type { Connection, Item, ShownItem, State } from "./types.js";
export type Filter = string | ((item: ShownItem) => boolean) | undefined;
/** Returns `before` if both objects have equal members: readers compare by identity. */
export declare const replaced: <T extends object>(before: T | undefined, after: T) => T;
/** Computes the state, and keeps objects whose members did not change. */
export declare class Store {
    /** Whether the state changed since the listeners were called. A reader may have caused the update before them. */
    missed: boolean;
    /** The state as of the last `update`. */
    computed: State;
    private _shown;
    private _selections;
    constructor(connection: Connection);
    /** Computes the state at `now` (Unix seconds of the server). `rest`: the members that are not from the synchronizer. */
    update(synchronizer: Synchronizer, now: number, rest: Pick<State, "connection" | "loaded" | "user" | "device">): void;
    /** Returns the next moment at which an item expires or becomes due; Infinity without one. */
    nextMoment(now: number): number;
    select(filter?: Filter): readonly ShownItem[];
    /** Returns an item as a page shows it, also one that was removed. */
    show(id: string, item: Item, mirror: Mirror, now: number, rendered?: import("./types.js").Rendering | undefined): ShownItem;
}
