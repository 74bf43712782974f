-- description: Create wpp_chats, the mirror of central chats

CREATE TABLE IF NOT EXISTS wpp_chats (
    id BIGINT NOT NULL,
    original_id BIGINT NOT NULL,
    instance VARCHAR(255) NOT NULL,
    contact_id BIGINT NULL,
    user_id INT NULL,
    result_id INT NULL,
    sector_id INT NULL,
    type VARCHAR(50) NOT NULL,
    avatar_url MEDIUMTEXT NULL,
    is_finished BOOLEAN NOT NULL DEFAULT FALSE,
    started_at DATETIME(3) NULL,
    finished_at DATETIME(3) NULL,
    finished_by INT NULL,
    is_schedule BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (id),
    UNIQUE KEY uq_original_id (original_id),
    KEY idx_contact_id (contact_id),
    KEY idx_user_id (user_id),
    KEY idx_is_finished (is_finished),
    KEY idx_sector_id (sector_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
