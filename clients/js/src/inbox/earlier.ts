/** The list of earlier items: dismissed, expired or replaced. */

import type { Client, Item } from "../types";
import { call } from "./api";
import { h } from "./dom";
import type { Content, Shown } from "./panel";
import type { Language } from "./texts";

/** A page of the history (docs/reference/http.md). `rendered` has the texts of items by their id. */
interface History {
  entries: { id: string; item: Item; gone: { at: number; reason: string } | null }[];
  rendered: Record<string, Shown>;
}

/** Makes the content of a row. `at`: Unix seconds. `mark`: why the item is gone. */
type Row = (item: Content, at: number, mark: string) => Node;

/** Appends the newest 50 gone items under the category prefix `scope` to `into`. Rejects if they cannot be read. */
export async function openEarlier(
  into: Element,
  client: Client,
  locale: string,
  { texts }: Language,
  scope: string,
  row: Row,
): Promise<void> {
  const query = new URLSearchParams({ limit: "100", render: locale });
  if (scope) query.set("category_prefix", scope);
  const { entries, rendered } = await call<History>(client, `~/history?${query}`);
  const rows = entries
    .filter(({ gone }) => gone)
    .slice(0, 50)
    .map(({ id, item, gone }) => {
      const mark = gone!.reason === "expired" ? texts.expired : texts.dismissed;
      return h("li", { part: "item earlier-item" }, row({ ...item, rendered: rendered[id] }, gone!.at, mark));
    });
  into.append(rows.length ? h("ul", { role: "list" }, ...rows) : h("div", { part: "empty" }, texts.empty));
}
