-- description: Create wpp_sync_copier, which daemon copies this database

CREATE TABLE IF NOT EXISTS wpp_sync_copier (
    id TINYINT NOT NULL COMMENT '1: who copies, 2: who asks for it',
    host VARCHAR(255) NOT NULL,
    pid BIGINT NOT NULL,
    version VARCHAR(50) NOT NULL COMMENT 'of wpp-sync',
    instances INT NOT NULL COMMENT 'so many that daemon copied when it wrote this',
    since TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
