-- description: Create wpp_sync_quarantine, the rows that a local table refuses, with the reason

CREATE TABLE wpp_sync_quarantine (
    entity VARCHAR(50) NOT NULL,
    id BIGINT NOT NULL COMMENT 'the central key of the row',
    errno INT NOT NULL COMMENT 'why the local server refused it',
    message TEXT NOT NULL,
    first_tried_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
    last_tried_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
    tries INT NOT NULL DEFAULT 1,
    PRIMARY KEY (entity, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
