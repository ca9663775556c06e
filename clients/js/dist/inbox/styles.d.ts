/** The style of the elements, as one constructed sheet: no `<style>`, which a strict policy refuses. */
/** Returns the style sheet of all elements. It is made on first use: a server has no `CSSStyleSheet`. */
export declare function styles(): CSSStyleSheet;
/** Adds the style of the parts that load later (`inbox-more`). */
export declare function addStyles(css: string): void;
export declare const ICONS: {
    readonly bell: "M10 2.5a5 5 0 0 1 5 5c0 4 1.5 5.5 2 6H3c.5-.5 2-2 2-6a5 5 0 0 1 5-5zM8.3 16.2a1.8 1.8 0 0 0 3.4 0";
    readonly close: "M5.5 5.5l9 9M14.5 5.5l-9 9";
    readonly clock: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 6.5V10l2.5 1.8";
    readonly sliders: "M3 6h7M14 6h3M3 14h3M10 14h7M12 4v4M8 12v4";
    readonly done: "M4 10.5l4 4 8-9";
};
