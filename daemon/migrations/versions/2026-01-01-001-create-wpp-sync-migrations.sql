-- description: Create wpp_sync_migrations, the history of this database's schema, and its journal

CREATE TABLE IF NOT EXISTS wpp_sync_migrations (
    id VARCHAR(255) NOT NULL,
    description TEXT NOT NULL,
    executed_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    KEY idx_executed_at (executed_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;

CREATE TABLE IF NOT EXISTS wpp_sync_migration_journal (
    id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    origin VARCHAR(20) NOT NULL COMMENT 'shipped with wpp-sync, or own: the operator''s',
    checksum CHAR(64) NOT NULL COMMENT 'SHA-256 of the file',
    statement INT NOT NULL COMMENT 'so many of its statements are in effect',
    statements INT NOT NULL COMMENT 'so many statements it has',
    reached CHAR(64) NOT NULL COMMENT 'SHA-256 of the statements that are in effect',
    state VARCHAR(20) NOT NULL COMMENT 'ready, running (the next statement), failed, done',
    started_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
    finished_at TIMESTAMP NULL DEFAULT NULL,
    error TEXT NULL,
    version VARCHAR(50) NOT NULL COMMENT 'of wpp-sync, when it ran',
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
