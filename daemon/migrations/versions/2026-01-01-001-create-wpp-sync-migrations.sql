-- description: Create wpp_sync_migrations, the history of this database's schema

CREATE TABLE wpp_sync_migrations (
    id VARCHAR(255) NOT NULL,
    description TEXT NOT NULL,
    executed_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    KEY idx_executed_at (executed_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
