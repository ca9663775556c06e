/** A connector that changes the transport by evidence, and goes back to the best one. */
import { Connector } from "./connector.js";
export declare class Ladder extends Connector {
    private _upgrade;
    private _upgrades;
    /** When the best transport is tried again; 0 if no attempt is planned. Connections that end early do not delay it. */
    private _upgradeAt;
    private _upgradeTimer;
    /**
     * The next transport follows, at once if a proxy buffers this one. If streams and polls cannot reach the gateway at
     * all, the best one follows.
     */
    protected _failed(code: number, delay: number): number;
    protected _good(): void;
    protected _leave(): void;
    /** Opens the best transport beside the present one. Its connection takes over as soon as it has brought a frame. */
    private _try;
}
