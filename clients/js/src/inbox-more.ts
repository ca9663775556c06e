/** The parts of the elements that most pages never need; `inbox` loads them when they are needed. */

export { openEarlier } from "./inbox/earlier";
export { MORE_STYLES } from "./inbox/more-styles";
export { OTHER_LANGUAGES } from "./inbox/languages";
export { offerUndo } from "./inbox/undo";
export { openSnooze } from "./inbox/snooze";
export { fillTabs, readTabs } from "./inbox/tabs";
export { openPreferences } from "./inbox/preferences";
