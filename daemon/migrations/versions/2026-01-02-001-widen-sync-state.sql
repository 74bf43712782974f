-- description: Widen the watermark to BIGINT and add the settled id to wpp_sync_state
-- One change a statement: a statement whose change already stands is skipped as a whole.

ALTER TABLE wpp_sync_state MODIFY COLUMN last_synced_id BIGINT NOT NULL DEFAULT 0;

ALTER TABLE wpp_sync_state ADD COLUMN settled_id BIGINT NOT NULL DEFAULT 0
    COMMENT 'up to here every central row is copied, late ones included';

ALTER TABLE wpp_sync_state ADD COLUMN settled_for BIGINT NOT NULL DEFAULT 0
    COMMENT 'the last_synced_id that settled_id was written with';

ALTER TABLE wpp_sync_state ADD COLUMN resync BOOLEAN NOT NULL DEFAULT FALSE
    COMMENT 'a full resync is under way';

ALTER TABLE wpp_sync_state ADD COLUMN rewound BOOLEAN NOT NULL DEFAULT FALSE
    COMMENT 'central ids began again: nothing is copied until a reset';
