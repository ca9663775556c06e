/** The view of preferences: which categories reach the user by push and by e-mail, and the quiet hours. */
import type { Client } from "../types.js";
import type { Tab } from "./tabs.js";
import type { Language } from "./texts.js";
interface Hooks {
    failed(error: unknown): void;
    closed(): void;
}
/** Returns the view; it reads the preferences and writes each change at once. */
export declare function openPreferences(client: Client, language: Language, tabs: Tab[], hooks: Hooks): HTMLElement;
export {};
