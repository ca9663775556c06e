/** Entry point of the package. */

export type * from "./types";
