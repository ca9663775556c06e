/** `<gregor-inbox>`: the list of a user's notifications. */
import type { Item, State } from "../types.js";
import { GregorElement } from "./element.js";
/** The texts of one row. */
export interface Shown {
    title: string;
    text?: string | null;
    link?: string | null;
}
/** An item of the state or of the history, as far as a row shows it. */
export type Content = Pick<Item, "category" | "body"> & {
    rendered?: Shown | null;
};
/** The element `<gregor-inbox>`. Fires `gregor-action` before each action; `preventDefault()` stops the action. */
export declare class GregorInbox extends GregorElement {
    #private;
    static observedAttributes: string[];
    /** Returns the texts of an item, instead of the default (`rendered`, then `body.title`, then the category). */
    renderItem: ((item: {
        category: string;
        body: any;
    }) => Shown) | null;
    protected build(): Node[];
    protected attached(): void;
    protected detached(): void;
    protected localize(): void;
    protected update(state: State | null): void;
    /** Focuses the first item, because the list gets its keys from the focused item. An empty list: its first button. */
    focus(): void;
}
