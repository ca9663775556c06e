/** The client of an element: given as a property, or made from the attributes and shared by all equal elements. */
import type { Client } from "../types.js";
/** A client and the function that gives it back. */
export interface Borrowed {
    client: Client;
    release(): void;
}
/** The attributes that choose the client. */
export declare const SOURCE_ATTRIBUTES: string[];
/** Returns the client for the attributes of an element, or null if `url` and a token are missing. */
export declare function borrow(element: Element, render: string): Borrowed | null;
