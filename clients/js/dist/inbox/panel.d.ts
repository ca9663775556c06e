/** `<gregor-inbox>`: the list of a user's notifications. */
import type { State } from "../types.js";
import { GregorElement } from "./element.js";
/** The texts of one row. */
export interface Shown {
    title: string;
    text?: string | null;
    link?: string | null;
}
/** See the module. Fires `gregor-action` before each action; `preventDefault()` stops it. */
export declare class GregorInbox extends GregorElement {
    #private;
    static observedAttributes: string[];
    /** Returns the texts of an item; replaces the default (`rendered`, then `body.title`, then the category). */
    renderItem: ((item: {
        category: string;
        body: any;
    }) => Shown) | null;
    protected build(): Node[];
    protected attached(): void;
    protected detached(): void;
    protected localize(): void;
    protected update(state: State | null): void;
    /** Focuses the first item, for the keys of the list; the first button if there is none. */
    focus(): void;
}
