/** The tabs of an inbox: one for all items, and one for each category of the attribute `tabs`. */

import type { Client } from "../types";
import { h, moveFocus, place, set, text } from "./dom";
import type { Language } from "./texts";

/** A tab: a category prefix and its label, as in `tabs="mail=Mail, user=Friends"`. */
export interface Tab {
  prefix: string;
  label: string;
}

/** Returns the tabs of the attribute `tabs`. Without a label, the prefix is the label. */
export function readTabs(attribute: string | null): Tab[] {
  const entries = (attribute ?? "").split(",").map((each) => each.trim()).filter(Boolean);
  return entries.map((each) => {
    const [prefix = "", label = prefix] = each.split("=", 2);
    return { prefix, label };
  });
}

/** Fills the list of tabs, each with the number of its items. `selected`: the prefix of the selected tab. */
export function fillTabs(
  tablist: HTMLElement,
  client: Client | null,
  { texts, number }: Language,
  tabs: Tab[],
  selected: string,
  choose: (prefix: string) => void,
): void {
  tablist.onkeydown = (event) => moveFocus(event, "[role=tab]", { ArrowRight: 1, ArrowLeft: -1 }, true);
  const elements = tabs.map(({ prefix, label }, n) => {
    const tab =
      (tablist.children[n] as HTMLElement | undefined) ??
      h("button", { role: "tab", part: "tab", "aria-controls": "panel" });
    const count = client === null ? 0 : client.select(prefix).length;
    text(tab, (n === 0 ? texts.all : label) + (count ? ` ${number.format(count)}` : ""));
    const isSelected = prefix === selected;
    tab.onclick = () => choose(prefix);
    set(tab, "aria-selected", String(isSelected));
    set(tab, "tabindex", isSelected ? "0" : "-1");
    set(tab, "id", isSelected ? "tab" : null);
    return tab;
  });
  place(tablist, elements);
}
