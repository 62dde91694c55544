-- Passwords for docker-compose.yml, whose Postgres nobody outside reaches. Not for production.
ALTER ROLE millrace_migrate PASSWORD 'millrace';
ALTER ROLE millrace_app PASSWORD 'millrace';
ALTER ROLE millrace_system PASSWORD 'millrace';
