/** The bar that offers to undo a dismissal. */
import type { Client, Receipt, ShownItem } from "../types.js";
import type { Language } from "./texts.js";
/**
 * Shows `label` in the bar for eight seconds, and a button if there are items to bring back.
 *
 * A dismissal is final, so undo creates copies. If an interval was dismissed, a copy gets a new `created` (`keepsTime`
 * false): the remembered interval would dismiss it again otherwise. A copy has only the reminders that have not fired,
 * because a reminder in the past would fire again. If `mayUndo` returns false, nothing is created; `sent` gets the
 * promise of each creation.
 */
export declare function offerUndo(bar: HTMLElement, client: Client, { texts }: Language, label: string, items: readonly ShownItem[], keepsTime: boolean, undone: {
    now(): number;
    mayUndo(): boolean;
    sent(message: Promise<Receipt>): void;
}): void;
