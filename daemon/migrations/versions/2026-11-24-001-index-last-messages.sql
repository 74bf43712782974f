-- description: Index wpp_last_messages by message and by contact
-- By message: which contacts' latest message a batch has touched. By contact: to compare the table
-- with wpp_messages a range of contacts at a time.

ALTER TABLE wpp_last_messages ADD KEY idx_id (id);

ALTER TABLE wpp_last_messages ADD KEY idx_contact_id (contact_id);
