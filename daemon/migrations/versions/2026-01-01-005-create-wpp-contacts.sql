-- description: Create wpp_contacts, the mirror of central contacts

CREATE TABLE IF NOT EXISTS wpp_contacts (
    id BIGINT NOT NULL,
    instance VARCHAR(255) NOT NULL,
    name VARCHAR(255) NOT NULL,
    phone VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    customer_id INT NULL,
    is_deleted BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (id),
    UNIQUE KEY uq_instance_phone (instance, phone),
    KEY idx_customer_id (customer_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
