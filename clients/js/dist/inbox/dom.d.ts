/** Builds DOM without `innerHTML`, which strict policies (Trusted Types) refuse. */
export type Child = Node | string | null | false | undefined;
type Props = Record<string, unknown>;
/**
 * Returns an element. A function is a listener (`onclick`), a boolean an attribute without value, null is left out. `part`
 * is also the class.
 */
export declare function h<K extends keyof HTMLElementTagNameMap>(tag: K, props?: Props, ...children: Child[]): HTMLElementTagNameMap[K];
/** Returns an icon of 20 × 20 units, drawn with lines. */
export declare function icon(path: string): SVGSVGElement;
/** Sets or removes an attribute; writes nothing if it has the value already. */
export declare function set(element: Element, name: string, value: string | boolean | null | undefined): void;
/** Sets the text of an element; writes nothing if it has the text already, so that a selection stays. */
export declare function text(element: Element, content: string): void;
/** Puts the nodes into the parent in this order, and removes all others. Nodes in place are not touched. */
export declare function place(parent: Element, nodes: readonly Element[]): void;
/** Places a popover below or above its anchor, inside the window, on the side where the text begins or ends. */
export declare function anchor(popover: HTMLElement, to: Element, alignStart: boolean): void;
/** Moves the focus between elements by keys; `steps` has the direction of each key. Left and right follow the text. */
export declare function moveFocus(event: KeyboardEvent, selector: string, steps: Record<string, number>, clicks: boolean): void;
export {};
