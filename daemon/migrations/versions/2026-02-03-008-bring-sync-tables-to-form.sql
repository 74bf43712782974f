-- description: Bring wpp_sync_migrations and wpp_sync_state to their form: utf8mb4, indexes

ALTER TABLE wpp_sync_migrations
    ENGINE = InnoDB,
    ROW_FORMAT = DEFAULT,
    DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_unicode_ci,
    MODIFY COLUMN id VARCHAR(255) NOT NULL FIRST,
    MODIFY COLUMN description TEXT NOT NULL AFTER id,
    MODIFY COLUMN executed_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP AFTER description;

ALTER TABLE wpp_sync_migrations ADD KEY IF NOT EXISTS idx_executed_at (executed_at);

ALTER TABLE wpp_sync_state
    ENGINE = InnoDB,
    ROW_FORMAT = DEFAULT,
    DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_unicode_ci,
    MODIFY COLUMN entity VARCHAR(50) NOT NULL FIRST,
    MODIFY COLUMN last_synced_id BIGINT NOT NULL DEFAULT 0 AFTER entity,
    MODIFY COLUMN last_synced_at TIMESTAMP NULL
        DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP AFTER last_synced_id;

ALTER TABLE wpp_sync_state ADD KEY IF NOT EXISTS idx_last_synced_at (last_synced_at);
