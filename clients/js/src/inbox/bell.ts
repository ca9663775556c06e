/** `<gregor-bell>`: a button with the badge, and the inbox in a popover. */

import type { State } from "../types";
import { anchor, h, icon, set, text } from "./dom";
import { GregorElement, troubleOf } from "./element";
import type { GregorInbox } from "./panel";
import { ICONS } from "./styles";

/** The attributes that the inbox gets from the bell. */
const PASSED = ["category", "tabs", "locale", "theme"];
/** A badge above this number is shown as `99+`. */
const MAX_SHOWN = 99;

/** The element `<gregor-bell>`. Fires `gregor-open` with `{open}` when the popover opens or closes. */
export class GregorBell extends GregorElement {
  static override observedAttributes = [...GregorElement.observedAttributes, "category", "tabs", "theme"];

  /** The inbox in the popover, for `renderItem` and styles. */
  readonly inbox = document.createElement("gregor-inbox") as unknown as GregorInbox;

  readonly #badge = h("span", { part: "badge", "aria-hidden": "true" });
  readonly #button = h(
    "button",
    { part: "bell", "aria-haspopup": "dialog", "aria-expanded": "false", onclick: () => this.toggle() },
    icon(ICONS.bell),
    this.#badge,
  );
  readonly #drop = h(
    "div",
    {
      part: "popover",
      popover: "",
      role: "dialog",
      // When a browser hides the list, it loses a focus inside the list.
      onbeforetoggle: () => this.#drop.matches(":focus-within") && this.#button.focus(),
      ontoggle: (event: Event) => this.#toggled(event),
    },
  );

  /** Opens or closes the popover. */
  toggle(open?: boolean): void {
    this.#drop.togglePopover(open);
  }

  protected build(): Node[] {
    set(this.inbox, "exportparts", "panel,header,heading,action,tab,item,item-title,item-text,item-meta,empty");
    return [this.#button, this.#drop];
  }

  protected localize(): void {
    set(this.#drop, "aria-label", this.language.texts.title);
  }

  protected update(state: State | null): void {
    const { texts, number } = this.language;
    const count = state?.badge ?? 0;
    text(this.#badge, count > MAX_SHOWN ? `${number.format(MAX_SHOWN)}+` : number.format(count));
    this.#badge.hidden = count === 0;
    const trouble = troubleOf(state);
    set(this.#button, "data-offline", trouble !== null);
    set(this.#button, "part", trouble ? `bell ${trouble}` : "bell");
    const label = count ? `${texts.title}, ${texts.fresh}: ${number.format(count)}` : texts.title;
    set(this.#button, "aria-label", trouble ? `${label}. ${texts[trouble]}` : label);
    for (const name of PASSED) set(this.inbox, name, name === "locale" ? this.locale : this.getAttribute(name));
    if (this.inbox.i18n !== this.i18n) this.inbox.i18n = this.i18n;
    if (this.inbox.client !== this.client) this.inbox.client = this.client;
  }

  #toggled(event: Event): void {
    const open = (event as ToggleEvent).newState === "open";
    set(this.#button, "aria-expanded", String(open));
    if (open) {
      // Only now: a closed bell builds no list.
      if (!this.inbox.isConnected) this.#drop.append(this.inbox);
      anchor(this.#drop, this.#button, false);
      // After the microtask in which a new list fills its rows.
      queueMicrotask(() => this.inbox.focus());
    }
    this.fire("gregor-open", { open });
  }
}
