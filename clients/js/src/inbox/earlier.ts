/** The list of items that have left: dismissed, expired or replaced. */

import type { Client, Item } from "../types";
import { h } from "./dom";
import type { Shown } from "./panel";
import type { Language } from "./texts";

/** An entry of the history (docs/reference/http.md). */
interface Entry {
  id: string;
  item: (Item & { rendered?: Shown | null }) | null;
  gone?: { at: number; reason: string } | null;
  rendered?: Record<string, Shown> | Shown | null;
}

type Row = (item: Pick<Item, "category" | "body">, at: number, mark: string) => Node;

/** Fills `into` with the newest 50 gone items under the category prefix `scope`. Rejects if they cannot be read. */
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
  const response = await client.api(`~/history?${query}`);
  if (!response.ok) throw new Error(`the history answered ${response.status}`);
  const { entries } = (await response.json()) as { entries: Entry[] };
  const rows = entries
    .filter(({ gone, item }) => gone && item)
    .slice(0, 50)
    .map(({ item, gone }) => {
      const mark = gone!.reason === "expired" ? texts.expired : texts.dismissed;
      return h("li", { part: "item earlier-item" }, row(item!, gone!.at, mark));
    });
  into.append(rows.length ? h("ul", { role: "list" }, ...rows) : h("div", { part: "empty" }, texts.empty));
}
