-- description: Bring wpp_contact_sectors to its form: utf8mb4, BIGINT ids

ALTER TABLE wpp_contact_sectors
    ENGINE = InnoDB,
    ROW_FORMAT = DEFAULT,
    DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_unicode_ci,
    MODIFY COLUMN contact_id BIGINT NOT NULL FIRST,
    MODIFY COLUMN sector_id INT NOT NULL AFTER contact_id;

ALTER TABLE wpp_contact_sectors
    ADD PRIMARY KEY IF NOT EXISTS (contact_id, sector_id);
