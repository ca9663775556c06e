/** The bar that offers to undo a dismissal. */

import type { Client, Receipt, ShownItem } from "../types";
import { h } from "./dom";
import type { Language } from "./texts";

const UNDO_MS = 8_000;
const timers = new WeakMap<Element, number>();

/**
 * Shows `label` in the bar for eight seconds, and a button if there are items to bring back.
 *
 * A dismissal is final, so undoing it creates copies. A copy of a dismissed range gets a new time (`keepsTime` false):
 * with its old time the remembered dismissal would catch it. A copy has the reminders that have not fired yet, because
 * a reminder in the past would fire again. `undone` may refuse (false), and gets the new messages.
 */
export function offerUndo(
  bar: HTMLElement,
  client: Client,
  { texts }: Language,
  label: string,
  items: readonly ShownItem[],
  keepsTime: boolean,
  undone: { now(): number; mayUndo(): boolean; sent(message: Promise<Receipt>): void },
): void {
  clearTimeout(timers.get(bar));
  const undo = (): void => {
    bar.hidden = true;
    if (!undone.mayUndo()) return;
    for (const { category, body, times, for_device } of items) {
      const { created, expires, remind_at } = times;
      const remindAt = remind_at?.filter((at) => at > undone.now());
      const options = { forDevice: for_device, expires, remindAt, created: keepsTime ? created : undefined };
      undone.sent(client.create(category, body, options));
    }
  };
  bar.replaceChildren(
    h("span", {}, label),
    items.length ? h("button", { part: "action", onclick: undo }, texts.undo) : "",
  );
  bar.hidden = false;
  timers.set(bar, window.setTimeout(() => (bar.hidden = true), UNDO_MS));
}
