/** `<gregor-inbox>`: the list of a user's notifications. */

import type { Item, ShownItem, State } from "../types";
import { h, icon, place, set, text } from "./dom";
import { GregorElement, troubleOf } from "./element";
import { getModules } from "./modules";
import { ICONS } from "./styles";

/** The texts of one row. */
export interface Shown {
  title: string;
  text?: string | null;
  link?: string | null;
}

/** An item of the state or of the history, as far as a row shows it. */
export type Content = Pick<Item, "category" | "body"> & { rendered?: Shown | null };

/** The list counts as seen after it was visible for this long. */
const SEEN_MS = 1_000;
/** Interval between two announcements for screen readers. */
const SPOKEN_MS = 5_000;
/** Rows of the first frame, more than a screen shows. The others follow: a long list must not delay the first paint. */
const FIRST_ROWS = 15;
/**
 * A link that opens in a browser. Others, such as `javascript:`, are not shown as links.
 *
 * A path stays on this host: browsers read `/\host` as `//host`, and drop tabs and line breaks before that.
 */
const LINK = /^(https?:|\/(?![/\\\s])|[#?])/i;

/** The element `<gregor-inbox>`. Fires `gregor-action` before each action; `preventDefault()` stops the action. */
export class GregorInbox extends GregorElement {
  static override observedAttributes = [...GregorElement.observedAttributes, "category", "tabs"];

  /** Returns the texts of an item, instead of the default (`rendered`, then `body.title`, then the category). */
  renderItem: ((item: { category: string; body: any }) => Shown) | null = null;

  readonly #rows = new Map<string, { li: HTMLLIElement; item: ShownItem | null; at: number }>();
  #tab = "";
  #current: string | null = null;
  #last: readonly ShownItem[] = [];
  #known: Set<string> | null = null;
  #seen: State["items"] | null = null;
  #seenTimer = 0;
  #clock = 0;
  #isSilent = false;
  #inView = false;
  #earlier: HTMLElement | null = null;
  #observer: IntersectionObserver | null = null;

  readonly #heading = h("h2", { part: "heading", id: "title" });
  readonly #all = h("button", { part: "action dismiss-all", onclick: () => this.#dismissAll() });
  readonly #settings = h(
    "button",
    { part: "icon preferences", onclick: () => this.#showPreferences() },
    icon(ICONS.sliders),
  );
  readonly #status = h("div", { part: "bar status", role: "status" });
  readonly #tablist = h("div", { part: "tabs", role: "tablist" });
  readonly #fresh = h("h3", { id: "new" });
  readonly #list = h("ul", { part: "list", role: "list", "aria-labelledby": "new", onkeydown: (e: KeyboardEvent) => this.#listKeys(e) });
  readonly #empty = h("div", { part: "empty" });
  readonly #more = h("button", { part: "earlier", onclick: () => this.#toggleEarlier() });
  readonly #scroll = h("div", { part: "scroll", id: "panel", tabindex: "-1" }, this.#empty, this.#fresh, this.#list, this.#more);
  readonly #undoBar = h("div", { part: "bar undo" });
  readonly #spoken = h("div", { part: "quiet", role: "status", "aria-live": "polite" });
  readonly #panel = h(
    "div",
    { part: "panel", role: "group", "aria-labelledby": "title" },
    ...[h("header", { part: "header" }, this.#heading, this.#settings, this.#all), this.#status, this.#tablist, this.#scroll, this.#undoBar, this.#spoken],
  );

  protected build(): Node[] {
    this.#status.hidden = this.#undoBar.hidden = true;
    return [this.#panel];
  }

  protected override attached(): void {
    // Loaded before they are needed: the menus must also work if the page goes offline.
    setTimeout(() => getModules().more().catch(() => {}), 1_000);
    this.#observer = new IntersectionObserver(
      ([entry]) => {
        this.#inView = entry!.intersectionRatio >= 0.5 || entry!.intersectionRect.height >= innerHeight / 2;
        this.#watchSeen();
      },
      { threshold: [0, 0.5] },
    );
    this.#observer.observe(this.#panel);
    document.addEventListener("visibilitychange", this.#watchSeen);
    this.#clock = window.setInterval(() => this.#tick(), 30_000);
  }

  protected override detached(): void {
    this.#observer?.disconnect();
    document.removeEventListener("visibilitychange", this.#watchSeen);
    clearInterval(this.#clock);
    this.#inView = false;
    this.#watchSeen();
  }

  protected localize(): void {
    const { texts, isRightToLeft } = this.language;
    this.#panel.dir = isRightToLeft ? "rtl" : "ltr";
    text(this.#heading, texts.title);
    text(this.#all, texts.dismissAll);
    text(this.#fresh, texts.fresh);
    text(this.#more, texts.earlier);
    set(this.#settings, "aria-label", texts.preferences);
    set(this.#settings, "title", texts.preferences);
    for (const { li } of this.#rows.values()) li.remove();
    this.#rows.clear();
    this.#closeEarlier();
  }

  // --- the list

  protected update(state: State | null): void {
    const { texts } = this.language;
    const scope = this.#scope();
    const items = state ? this.client!.select(scope) : [];
    const trouble = troubleOf(state);
    text(this.#status, trouble ? texts[trouble] : "");
    this.#status.hidden = !trouble;
    const isLoading = !state?.loaded;
    // A client that has stopped loads nothing.
    const isEmpty = items.length === 0 && !(isLoading && trouble === "stopped");
    set(this.#panel, "aria-busy", state && isLoading && isEmpty ? "true" : null);
    void this.#fillTabs();
    if (items !== this.#last || this.#rows.size !== items.length) {
      this.#last = items;
      const isFirst = this.#rows.size === 0 && items.length > FIRST_ROWS;
      this.#fillList(isFirst ? items.slice(0, FIRST_ROWS) : items);
      // In a task after the first frame is painted.
      if (isFirst) requestAnimationFrame(() => setTimeout(() => this.queue()));
      this.#announce(items, state);
    }
    this.#empty.hidden = !isEmpty;
    if (isEmpty) this.#empty.replaceChildren(...(isLoading ? [texts.loading] : [icon(ICONS.done), texts.empty]));
    this.#all.hidden = items.length === 0;
    this.#fresh.hidden = items.length === 0 || !this.#earlier;
    this.#watchSeen();
  }

  /** The category prefix that the list shows. */
  #scope(): string {
    return this.#tab || (this.getAttribute("category") ?? "");
  }

  #fillList(items: readonly ShownItem[]): void {
    const now = this.now();
    const rows = items.map((item) => {
      let row = this.#rows.get(item.id);
      if (!row) {
        row = { li: h("li", { part: "item" }), item: null, at: item.times.created };
        set(row.li, "data-new", this.#known !== null);
        this.#rows.set(item.id, row);
      }
      if (row.item !== item) {
        row.item = item;
        this.#fillRow(row.li, item, now);
      }
      return row.li;
    });
    const kept = new Set(items.map((item) => item.id));
    for (const id of [...this.#rows.keys()]) if (!kept.has(id)) this.#rows.delete(id);
    place(this.#list, rows);
    if (this.#current === null || !kept.has(this.#current)) this.#current = items[0]?.id ?? null;
    for (const [id, { li }] of this.#rows) set(li, "tabindex", id === this.#current ? "0" : "-1");
  }

  #fillRow(li: HTMLLIElement, item: ShownItem, now: number): void {
    const { texts } = this.language;
    set(li, "data-id", item.id);
    set(li, "data-due", item.due);
    set(li, "data-pending", item.pending);
    const mark = item.pending ? texts.pending : item.due ? texts.due : "";
    const action = (path: string, label: string, part: string, listener: (event: Event) => void) =>
      h(
        "button",
        { part: `icon ${part}`, tabindex: "-1", "aria-label": label, title: label, onclick: listener },
        icon(path),
      );
    li.replaceChildren(
      this.#texts(item, now, item.times.created, mark),
      h(
        "div",
        { part: "item-actions" },
        action(ICONS.clock, texts.snooze, "snooze", (event) => this.#openSnooze(item.id, event.currentTarget as Element)),
        action(ICONS.close, texts.dismiss, "dismiss", () => this.#dismissOne(item.id)),
      ),
    );
  }

  /** Returns title, text and time of a row. `at`: Unix seconds. */
  #texts(item: Content, now: number, at: number, mark: string) {
    const shown = this.#shown(item);
    const link = shown.link && LINK.test(shown.link) ? shown.link : null;
    const title = link
      ? h("a", { part: "item-title", dir: "auto", href: link, tabindex: "-1", onclick: (e: Event) => this.#followLink(e, item) }, shown.title)
      : h("span", { part: "item-title", dir: "auto" }, shown.title);
    const time = h("time", { datetime: new Date(at * 1_000).toISOString(), title: this.language.moment.format(at * 1_000) });
    time.textContent = this.language.ago(at, now);
    return h(
      "div",
      {},
      title,
      shown.text ? h("p", { part: "item-text", dir: "auto" }, shown.text) : null,
      h("div", { part: "item-meta" }, time, mark ? h("span", { part: "mark" }, mark) : null),
    );
  }

  #shown(item: Content): Shown {
    const own = this.renderItem?.(item);
    if (own) return own;
    if (item.rendered?.title) return item.rendered;
    const body = item.body as { title?: unknown; text?: unknown; link?: unknown } | null;
    const string = (value: unknown): string | null => (typeof value === "string" && value ? value : null);
    return { title: string(body?.title) ?? item.category, text: string(body?.text), link: string(body?.link) };
  }

  async #fillTabs(): Promise<void> {
    const given = this.getAttribute("tabs");
    this.#tablist.hidden = !given;
    if (!given) return;
    const { fillTabs, readTabs } = await getModules().more();
    set(this.#scroll, "role", "tabpanel");
    set(this.#scroll, "aria-labelledby", "tab");
    const all = { prefix: this.getAttribute("category") ?? "", label: "" };
    const tabs = [all, ...readTabs(given)];
    fillTabs(this.#tablist, this.client, this.language, tabs, this.#scope(), (prefix) => this.#selectTab(prefix));
  }

  #selectTab(prefix: string): void {
    this.#tab = prefix;
    this.#known = null;
    this.#closeEarlier();
    this.update(this.client?.getState() ?? null);
  }

  #tick(): void {
    const now = this.now();
    for (const { li, at } of this.#rows.values()) {
      const time = li.querySelector("time");
      if (time) text(time, this.language.ago(at, now));
    }
  }

  /** Announces new items to screen readers, at most once in five seconds. */
  #announce(items: readonly ShownItem[], state: State | null): void {
    if (!state?.loaded) return;
    const fresh = this.#known === null ? [] : items.filter((item) => !this.#known!.has(item.id) && !item.pending);
    this.#known = new Set(items.map((item) => item.id));
    if (fresh.length === 0 || this.#isSilent) return;
    // A timer, not a comparison of times: a step back of the clock would silence the announcements for its length.
    this.#isSilent = true;
    setTimeout(() => (this.#isSilent = false), SPOKEN_MS);
    const count = this.language.number.format(fresh.length);
    text(this.#spoken, `${this.language.texts.fresh}: ${fresh.length === 1 ? this.#shown(fresh[0]!).title : count}`);
  }

  /** Acknowledges the items after half of the list was visible for a second: Gregor then sends no push for them. */
  readonly #watchSeen = (): void => {
    const state = this.client?.getState();
    if (!state?.loaded || !this.#inView || document.hidden) {
      clearTimeout(this.#seenTimer);
      this.#seenTimer = 0;
    } else if (state.items !== this.#seen) {
      // A running timer is kept: steady traffic must not delay the acknowledgement.
      this.#seenTimer ||= window.setTimeout(() => {
        this.#seenTimer = 0;
        this.#seen = this.client!.getState().items;
        this.client!.ack();
      }, SEEN_MS);
    }
  };

  // --- actions

  #dismissOne(id: string): void {
    const item = this.#rows.get(id)?.item;
    if (!item || !this.fire("gregor-action", { action: "dismiss", item }, true)) return;
    const next = this.#neighbour(id);
    const hadFocus = this.#rows.get(id)!.li.contains(this.shadowRoot!.activeElement);
    this.#reportFailure(this.client!.dismiss(id));
    void this.#offerUndo(this.language.texts.dismissed, [item], true);
    if (hadFocus) this.#focusRow(next);
  }

  #dismissAll(): void {
    const items = this.#last;
    if (items.length === 0 || !this.fire("gregor-action", { action: "dismiss-all", items }, true)) return;
    this.#reportFailure(this.client!.dismiss({ prefix: this.#scope() }));
    void this.#offerUndo(this.language.texts.dismissed, items, false);
  }

  #snoozeUntil(id: string, until: Date): void {
    const item = this.#rows.get(id)?.item;
    if (!item || !this.fire("gregor-action", { action: "snooze", item, until }, true)) return;
    const next = this.#neighbour(id);
    this.#reportFailure(this.client!.snooze(id, until));
    void this.#offerUndo(`${this.language.texts.snoozed}: ${this.language.moment.format(until)}`, [], false);
    this.#focusRow(next);
  }

  async #offerUndo(label: string, items: readonly ShownItem[], keepsTime: boolean): Promise<void> {
    const { offerUndo } = await getModules().more();
    offerUndo(this.#undoBar, this.client!, this.language, label, items, keepsTime, {
      now: () => this.now(),
      mayUndo: () => this.fire("gregor-action", { action: "undo", items }, true),
      sent: (message) => this.#reportFailure(message),
    });
  }

  #followLink(event: Event, item: unknown): void {
    if (!this.fire("gregor-action", { action: "open", item }, true)) event.preventDefault();
  }

  #reportFailure(promise: Promise<unknown>): void {
    promise.catch((error: unknown) => {
      this.fire("gregor-error", { error });
      text(this.#status, this.language.texts.failed);
      this.#status.hidden = false;
    });
  }

  // --- snooze

  async #openSnooze(id: string, button: Element): Promise<void> {
    const { openSnooze } = await getModules().more();
    openSnooze(this.#panel, button, this.language, this.now(), (until) => this.#snoozeUntil(id, until));
  }

  // --- keyboard

  #listKeys(event: KeyboardEvent): void {
    const row = (event.target as Element).closest("li");
    const id = row?.dataset.id;
    if (!id || !this.#rows.has(id) || event.ctrlKey || event.metaKey || event.altKey) return;
    const ids = this.#last.map((item) => item.id);
    const at = ids.indexOf(id);
    const keys: Record<string, () => void> = {
      ArrowDown: () => this.#focusRow(ids[at + 1]),
      ArrowUp: () => this.#focusRow(ids[at - 1]),
      Home: () => this.#focusRow(ids[0]),
      End: () => this.#focusRow(ids[ids.length - 1]),
      e: () => this.#dismissOne(id),
      h: () => this.#openSnooze(id, row!.querySelector("button") ?? row!),
      z: () => this.#undoBar.querySelector("button")?.click(),
    };
    keys.j = keys.ArrowDown!;
    keys.k = keys.ArrowUp!;
    keys.Delete = keys.e!;
    if (event.target === row) keys.Enter = () => row!.querySelector("a")?.click();
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  #neighbour(id: string): string | undefined {
    const ids = this.#last.map((item) => item.id);
    const at = ids.indexOf(id);
    return ids[at + 1] ?? ids[at - 1];
  }

  /** Focuses the first item, because the list gets its keys from the focused item. An empty list: its first button. */
  override focus(): void {
    super.focus();
    if (this.#last[0]) this.#focusRow(this.#last[0].id);
  }

  #focusRow(id: string | undefined): void {
    if (!id) {
      if (this.#last.length <= 1) this.#scroll.focus();
      return;
    }
    this.#current = id;
    for (const [each, { li }] of this.#rows) set(li, "tabindex", each === id ? "0" : "-1");
    this.#rows.get(id)?.li.focus();
  }

  // --- earlier items, preferences

  #closeEarlier(): void {
    this.#earlier?.remove();
    this.#earlier = null;
    set(this.#more, "aria-expanded", "false");
    this.queue();
  }

  async #toggleEarlier(): Promise<void> {
    if (this.#earlier) return this.#closeEarlier();
    const { texts } = this.language;
    const gone = (this.#earlier = h("div", { part: "earlier-list" }));
    set(this.#more, "aria-expanded", "true");
    this.#scroll.append(gone);
    this.queue();
    try {
      const { openEarlier } = await getModules().more();
      await openEarlier(gone, this.client!, this.locale, this.language, this.#scope(), (item, at, mark) =>
        this.#texts(item, this.now(), at, mark),
      );
    } catch (error) {
      gone.append(h("div", { part: "empty", role: "status" }, texts.failed));
      this.fire("gregor-error", { error });
    }
  }

  async #showPreferences(): Promise<void> {
    if (!this.client) return;
    const { openPreferences, readTabs } = await getModules().more();
    const tabs = readTabs(this.getAttribute("tabs"));
    const view = openPreferences(this.client, this.language, tabs, {
      failed: (error) => this.fire("gregor-error", { error }),
      closed: () => {
        view.replaceWith(this.#scroll);
        set(this.#panel, "data-view", null);
        this.#settings.focus();
      },
    });
    this.#scroll.replaceWith(view);
    set(this.#panel, "data-view", "preferences");
    view.querySelector("button")!.focus();
  }
}
