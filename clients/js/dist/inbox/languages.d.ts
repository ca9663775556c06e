/** The texts in other languages than English; loaded on first use. */
import type { Texts } from "./texts.js";
export declare const OTHER_LANGUAGES: Record<string, Texts>;
