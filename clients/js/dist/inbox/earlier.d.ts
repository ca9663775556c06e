/** The list of earlier items: dismissed, expired or replaced. */
import type { Client } from "../types.js";
import type { Content } from "./panel.js";
import type { Language } from "./texts.js";
/** Makes the content of a row. `at`: Unix seconds. `mark`: why the item is gone. */
type Row = (item: Content, at: number, mark: string) => Node;
/** Appends the newest 50 gone items under the category prefix `scope` to `into`. Rejects if they cannot be read. */
export declare function openEarlier(into: Element, client: Client, locale: string, { texts }: Language, scope: string, row: Row): Promise<void>;
export {};
