/** The bar that offers to undo a dismissal. */
import type { Client, Receipt, ShownItem } from "../types.js";
import type { Language } from "./texts.js";
/**
 * Shows `label` in the bar for eight seconds, and a button if there are items to bring back.
 *
 * A dismissal is final, so undoing it creates copies. A copy of a dismissed range gets a new time (`keepsTime` false):
 * with its old time the remembered dismissal would catch it. A copy has the reminders that have not fired yet, because
 * a reminder in the past would fire again. `undone` may refuse (false), and gets the new messages.
 */
export declare function offerUndo(bar: HTMLElement, client: Client, { texts }: Language, label: string, items: readonly ShownItem[], keepsTime: boolean, undone: {
    now(): number;
    mayUndo(): boolean;
    sent(message: Promise<Receipt>): void;
}): void;
