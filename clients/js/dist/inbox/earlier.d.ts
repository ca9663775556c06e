/** The list of items that have left: dismissed, expired or replaced. */
import type { Client, Item } from "../types.js";
import type { Language } from "./texts.js";
type Row = (item: Pick<Item, "category" | "body">, at: number, mark: string) => Node;
/** Fills `into` with the newest 50 gone items under the category prefix `scope`. Rejects if they cannot be read. */
export declare function openEarlier(into: Element, client: Client, locale: string, { texts }: Language, scope: string, row: Row): Promise<void>;
export {};
