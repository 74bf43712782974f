-- description: Create wpp_contact_sectors, the sectors of each contact

CREATE TABLE IF NOT EXISTS wpp_contact_sectors (
    contact_id BIGINT NOT NULL,
    sector_id INT NOT NULL,
    PRIMARY KEY (contact_id, sector_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
