/** The view of preferences: which categories reach the user by push and by e-mail. */

import type { Client } from "../types";
import { h } from "./dom";
import type { Tab } from "./tabs";
import type { Language } from "./texts";

type Channel = "push" | "email";
type Preferences = Record<string, Partial<Record<Channel, boolean>>>;

interface Hooks {
  failed(error: unknown): void;
  closed(): void;
}

const CHANNELS: readonly Channel[] = ["push", "email"];

/** Returns the view; it reads the preferences and writes each change at once. */
export function openPreferences(client: Client, language: Language, tabs: Tab[], hooks: Hooks): HTMLElement {
  const { texts } = language;
  const status = h("div", { part: "empty", role: "status" }, texts.loading);
  const view = h(
    "div",
    { part: "scroll preferences-view" },
    h("header", {}, h("h2", {}, texts.preferences), h("button", { part: "action", onclick: hooks.closed }, texts.back)),
    status,
  );
  const fail = (error: unknown): void => {
    status.textContent = texts.failed;
    status.hidden = false;
    hooks.failed(error);
  };
  void call(client)
    .then((stored) => {
      status.hidden = true;
      const roots = client.getState().items.map(({ category }) => category.split(".", 1)[0]!);
      const names = [...new Set(["*", ...Object.keys(stored), ...tabs.map(({ prefix }) => prefix), ...roots])];
      const label = (name: string): string => tabs.find(({ prefix }) => prefix === name)?.label ?? name;
      const rows = names.map((name) => row(client, language, name, stored, label(name), fail));
      const heads = [texts.title, texts.push, texts.email].map((each) => h("th", { scope: "col" }, each));
      view.append(h("table", {}, h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...rows)));
    })
    .catch(fail);
  return view;
}

function row(
  client: Client,
  { texts }: Language,
  name: string,
  stored: Preferences,
  label: string,
  fail: (error: unknown) => void,
): HTMLElement {
  const title = name === "*" ? texts.all : label;
  const cells = CHANNELS.map((channel) => {
    const box = h("input", {
      type: "checkbox",
      "aria-label": `${title}: ${texts[channel]}`,
      onchange: () => {
        call(client, { [name]: { [channel]: box.checked } }).catch((error: unknown) => {
          box.checked = !box.checked;
          fail(error);
        });
      },
    });
    box.checked = stored[name]?.[channel] ?? stored["*"]?.[channel] ?? true;
    return h("td", {}, h("label", {}, box));
  });
  return h("tr", {}, h("th", { scope: "row" }, title), ...cells);
}

/** Reads the preferences, or changes some of them. */
async function call(client: Client, change?: Preferences): Promise<Preferences> {
  const init = change && { method: "PATCH", headers: { "Content-Type": "application/json" }, body: JSON.stringify(change) };
  const response = await client.api("~/preferences", init);
  if (!response.ok) throw new Error(`the preferences answered ${response.status}`);
  const body = await response.text();
  return body ? (JSON.parse(body) as Preferences) : {};
}
