"""serve_app.rendering"""
