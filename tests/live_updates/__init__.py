"""What the tests of mobync.live share: devices that listen, brokers, a server, a bad network."""
