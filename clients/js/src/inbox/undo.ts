/** The bar that offers to undo a dismissal. */

import type { Client, Receipt, ShownItem } from "../types";
import { h } from "./dom";
import type { Language } from "./texts";

/** Time for which the bar is shown. */
const UNDO_MS = 8_000;
const timers = new WeakMap<Element, number>();

/**
 * Shows `label` in the bar for eight seconds, and a button if there are items to bring back.
 *
 * A dismissal is final, so undo creates copies. If an interval was dismissed, a copy gets a new `created` (`keepsTime`
 * false): the remembered interval would dismiss it again otherwise. A copy has only the reminders that have not fired,
 * because a reminder in the past would fire again. If `mayUndo` returns false, nothing is created; `sent` gets the
 * promise of each creation.
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
