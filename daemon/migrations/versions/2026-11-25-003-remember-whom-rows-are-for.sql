-- description: Remember in wpp_sync_state for which instance, and from which central rows, a table was copied
-- NULL in the rows that stand: whoever copies them next makes them his. Older versions leave both
-- columns alone.

ALTER TABLE wpp_sync_state
    ADD COLUMN instance VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL
        COMMENT 'the instance that the rows were copied for; NULL: not known',
    ADD COLUMN source VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL
        COMMENT 'fingerprint of what decides which central rows belong here; NULL: not known';
