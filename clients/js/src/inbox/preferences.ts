/** The view of preferences: push and e-mail for each category, and the quiet hours. */

import type { Client } from "../types";
import { call } from "./api";
import { h } from "./dom";
import type { Tab } from "./tabs";
import type { Language } from "./texts";

type Channel = "push" | "email";
type Preferences = Record<string, Partial<Record<Channel, boolean>>>;

/** The quiet hours of a user, in a time zone. Null or absent: the user has none. */
interface Quiet {
  timezone?: string;
  quiet_hours?: { from: string; to: string } | null;
}

/** Calls to the inbox: a read or write failed, and the user closes the view. */
interface Hooks {
  failed(error: unknown): void;
  closed(): void;
}

const CHANNELS: readonly Channel[] = ["push", "email"];
const PREFERENCES = "~/preferences";
const QUIET_HOURS = "~/quiet-hours";
/** A time is written when the user has not changed it for this long. */
const TYPING_MS = 800;
/** The times that the view suggests. */
const USUAL_HOURS = { from: "22:00", to: "07:00" };

/** Returns the view. It reads the preferences, and writes each change at once. */
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
  void Promise.all([call<Preferences>(client, PREFERENCES), call<Quiet>(client, QUIET_HOURS)])
    .then(([stored, quiet]) => {
      status.hidden = true;
      const roots = client.getState().items.map(({ category }) => category.split(".", 1)[0]!);
      const names = [...new Set(["*", ...Object.keys(stored), ...tabs.map(({ prefix }) => prefix), ...roots])];
      const label = (name: string): string => tabs.find(({ prefix }) => prefix === name)?.label ?? name;
      const rows = names.map((name) => row(client, language, name, stored, label(name), fail));
      const heads = [texts.title, texts.push, texts.email].map((each) => h("th", { scope: "col" }, each));
      view.append(h("table", {}, h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...rows)));
      view.append(quietHours(client, language, quiet, fail));
    })
    .catch(fail);
  return view;
}

/** Returns the row of one category prefix `name`, with a checkbox for each channel. */
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
        call(client, PREFERENCES, "PATCH", { [name]: { [channel]: box.checked } }).catch((error: unknown) => {
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

/** Returns the checkbox and the two times of the quiet hours. A change also stores the time zone of this device. */
function quietHours(client: Client, { texts }: Language, stored: Quiet, fail: (error: unknown) => void): HTMLElement {
  // The input changes with almost every key, and each request counts for the rate limit.
  let timer: ReturnType<typeof setTimeout>;
  let saving = Promise.resolve();
  const saveNext = (): void => void (saving = saving.then(save));
  const saveSoon = (): void => {
    clearTimeout(timer);
    timer = setTimeout(saveNext, TYPING_MS);
  };
  const toggle = (): void => {
    update();
    saveNext();
  };
  const box = h("input", { type: "checkbox", onchange: toggle });
  const from = h("input", { type: "time", required: true, onchange: saveSoon });
  const to = h("input", { type: "time", required: true, onchange: saveSoon });
  const hint = h("p", {});
  const update = (): void => {
    from.disabled = to.disabled = !box.checked;
    hint.textContent = `${texts.quietHint} (${(box.checked && stored.timezone) || ownZone()})`;
  };
  const showStored = (): void => {
    box.checked = !!stored.quiet_hours;
    ({ from: from.value, to: to.value } = stored.quiet_hours ?? USUAL_HOURS);
    update();
  };
  const save = async (): Promise<void> => {
    if (!from.value || !to.value) return;
    const quiet_hours = box.checked ? { from: from.value, to: to.value } : null;
    try {
      stored = await call<Quiet>(client, QUIET_HOURS, "PUT", { timezone: ownZone(), quiet_hours });
      update(); // not the times: the user may be typing
    } catch (error) {
      fail(error);
      showStored();
    }
  };
  showStored();
  const times = h("div", { part: "times" }, h("label", {}, texts.from, from), h("label", {}, texts.to, to));
  return h("fieldset", {}, h("legend", {}, h("label", {}, box, texts.quietHours)), times, hint);
}

const ownZone = (): string => Intl.DateTimeFormat().resolvedOptions().timeZone;


