/** Clients that are made from the attributes of elements. Elements with equal attributes share one. */
import type { Client } from "../types.js";
/** A shared client. The element calls `release` when it no longer needs the client. */
export interface Borrowed {
    client: Client;
    release(): void;
}
/** The attributes that choose the client. */
export declare const SOURCE_ATTRIBUTES: string[];
/** Returns the client for the attributes of an element, or null if `url` and a token are missing. */
export declare function borrow(element: Element, render: string): Borrowed | null;
