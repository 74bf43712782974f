-- description: Create wpp_sync_state, how far each entity has been synced

CREATE TABLE IF NOT EXISTS wpp_sync_state (
    entity VARCHAR(50) NOT NULL,
    last_synced_id INT NOT NULL DEFAULT 0,
    last_synced_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (entity),
    KEY idx_last_synced_at (last_synced_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
