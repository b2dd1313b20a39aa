"""Server processes under load, killed and restarted: what the tests of several processes share.

    python -m processes --database postgresql --kills 400      (in tests/)

kills server processes with SIGKILL in the middle of syncs, and checks that nothing was lost, done
twice or half written.  test_processes.py does the same a few times on each database;
MOBYNC_TEST_KILLS says how often.
"""
