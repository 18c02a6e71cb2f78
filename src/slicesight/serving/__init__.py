"""How do a page and other programs ask a scan over HTTP? (`slicesight serve`)

upload -> a process of its own reads it -> grid and picture kept in a locked folder -> questions queue for one model
thread -> continuous batching -> OpenAI's shapes with the slices as extra fields. `app.create_app` puts it together.
"""
