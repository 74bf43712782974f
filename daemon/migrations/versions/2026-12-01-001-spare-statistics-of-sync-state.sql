-- description: Spare the server the statistics of wpp_sync_state, whose few rows change with every pass
-- InnoDB gathers them anew when a tenth of a table's rows has changed: here every ten seconds, in the
-- background, with a lock that all tables of the server wait for.

ALTER TABLE wpp_sync_state STATS_AUTO_RECALC = 0;
