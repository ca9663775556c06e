/** `<gregor-bell>`: a button with the badge, and the inbox in a popover. */
import type { State } from "../types.js";
import { GregorElement } from "./element.js";
import type { GregorInbox } from "./panel.js";
/** The element `<gregor-bell>`. Fires `gregor-open` with `{open}` when the popover opens or closes. */
export declare class GregorBell extends GregorElement {
    #private;
    static observedAttributes: string[];
    /** The inbox in the popover, for `renderItem` and styles. */
    readonly inbox: GregorInbox;
    /** Opens or closes the popover. */
    toggle(open?: boolean): void;
    protected build(): Node[];
    protected localize(): void;
    protected update(state: State | null): void;
}
