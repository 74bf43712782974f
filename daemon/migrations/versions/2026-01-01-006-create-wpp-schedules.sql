-- description: Create wpp_schedules, the mirror of central schedules

CREATE TABLE IF NOT EXISTS wpp_schedules (
    id BIGINT NOT NULL,
    instance VARCHAR(255) NOT NULL,
    description TEXT NULL,
    contact_id BIGINT NOT NULL,
    chat_id BIGINT NULL,
    scheduled_at DATETIME(3) NOT NULL,
    schedule_date DATETIME(3) NOT NULL,
    scheduled_by INT NOT NULL,
    scheduled_for INT NOT NULL,
    sector_id INT NULL,
    PRIMARY KEY (id),
    KEY idx_contact_id (contact_id),
    KEY idx_chat_id (chat_id),
    KEY idx_scheduled_at (scheduled_at),
    KEY idx_schedule_date (schedule_date)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
