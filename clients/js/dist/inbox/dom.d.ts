/** Functions that build DOM without `innerHTML`, which strict policies (Trusted Types) refuse. */
export type Child = Node | string | null | false | undefined;
type Props = Record<string, unknown>;
/**
 * Returns a new element. In `props`, a function is a listener (`onclick`), `true` an attribute without a value; false and
 * null are left out; `part` is also the class.
 */
export declare function h<K extends keyof HTMLElementTagNameMap>(tag: K, props?: Props, ...children: Child[]): HTMLElementTagNameMap[K];
/** Returns an SVG icon of 20 × 20 units from the `d` of its path. */
export declare function icon(path: string): SVGSVGElement;
/** Sets or removes an attribute; writes nothing if it has the value already. */
export declare function set(element: Element, name: string, value: string | boolean | null | undefined): void;
/** Sets the text of an element; writes nothing if it has the text already, so that a selection stays. */
export declare function text(element: Element, content: string): void;
/** Puts the nodes into the parent in this order, and removes all others. Nodes in place are not touched. */
export declare function place(parent: Element, nodes: readonly Element[]): void;
/** Places a popover below or above its anchor, inside the window, aligned with the start or the end of the anchor. */
export declare function anchor(popover: HTMLElement, to: Element, alignStart: boolean): void;
/**
 * Moves the focus between the elements of `selector`. `steps`: 1 (next) or -1 (previous) by key; left and right are
 * swapped in right-to-left text. `clicks`: also click the element.
 */
export declare function moveFocus(event: KeyboardEvent, selector: string, steps: Record<string, number>, clicks: boolean): void;
export {};
