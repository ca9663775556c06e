/** The parts of the elements that most pages never need; `inbox` loads them when they are needed. */
export { openEarlier } from "./inbox/earlier.js";
export { MORE_STYLES } from "./inbox/more-styles.js";
export { OTHER_LANGUAGES } from "./inbox/languages.js";
export { offerUndo } from "./inbox/undo.js";
export { openSnooze } from "./inbox/snooze.js";
export { fillTabs, readTabs } from "./inbox/tabs.js";
export { openPreferences } from "./inbox/preferences.js";
