-- description: Remember how far the tables were compared, and quarantined rows with a key of two columns

ALTER TABLE wpp_sync_quarantine
    ADD COLUMN id2 BIGINT NOT NULL DEFAULT 0
        COMMENT 'the second column of the key, where it has two' AFTER id,
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (entity, id, id2);

ALTER TABLE wpp_sync_state
    ADD COLUMN reconcile_cursor BIGINT NULL
        COMMENT 'central ids from here on are compared in this round; NULL: no round is under way',
    ADD COLUMN reconciled_at TIMESTAMP NULL DEFAULT NULL
        COMMENT 'when the whole table was last compared',
    ADD COLUMN derived_at TIMESTAMP NULL DEFAULT NULL
        COMMENT 'when what is derived from the table was last compared';
