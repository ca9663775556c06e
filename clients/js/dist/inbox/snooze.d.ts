/** The menu that asks until when an item is put off. */
import type { Language } from "./texts.js";
/** Opens the menu beside `button`, in `parent`. `chosen` gets a moment after `now` (Unix seconds). */
export declare function openSnooze(parent: Element, button: Element, { texts }: Language, now: number, chosen: (until: Date) => void): void;
