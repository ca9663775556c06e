/** The texts in other languages than English; they load later, with `inbox-more`. */
import type { Texts } from "./texts.js";
export declare const OTHER_LANGUAGES: Record<string, Texts>;
