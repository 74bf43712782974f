-- description: Create wpp_sync_orders, what an operator has said: pauses and the throttle

CREATE TABLE IF NOT EXISTS wpp_sync_orders (
    entity VARCHAR(50) NOT NULL COMMENT 'empty: the instance as a whole',
    paused_at TIMESTAMP NULL DEFAULT NULL,
    reason TEXT NULL,
    rows_per_second INT NULL,
    PRIMARY KEY (entity)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
