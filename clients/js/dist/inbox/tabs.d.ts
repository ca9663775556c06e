/** The tabs of an inbox: one for all items, and one for each category of the attribute `tabs`. */
import type { Client } from "../types.js";
import type { Language } from "./texts.js";
/** A tab: a category prefix and its label, as in `tabs="mail=Mail, user=Friends"`. */
export interface Tab {
    prefix: string;
    label: string;
}
/** Returns the tabs of the attribute `tabs`. Without a label, the prefix is the label. */
export declare function readTabs(attribute: string | null): Tab[];
/** Fills the list of tabs, each with the number of its items. `selected`: the prefix of the selected tab. */
export declare function fillTabs(tablist: HTMLElement, client: Client | null, { texts, number }: Language, tabs: Tab[], selected: string, choose: (prefix: string) => void): void;
